"""Whom a domain trusts: anchors, bundles, policy and the one trust decision."""
