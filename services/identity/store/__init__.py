"""SQL of identity, beside its arguments; one module by subject. Each function takes the connection to work on."""
