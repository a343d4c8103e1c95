"""The application: security and trust agent, SMTP, queue, command line, composition root."""
