"""Addresses, certificates, their discovery and validation, CMS. Imports nothing of ours."""
