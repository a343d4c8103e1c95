"""The administrator's tool, one module per noun."""
