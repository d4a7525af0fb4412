"""Use cases of identity, one module by subject; each public method is one transaction."""
