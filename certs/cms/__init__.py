"""CMS (RFC 5652) over file-like objects in bounded memory."""
