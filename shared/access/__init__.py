"""Who may do what: the role catalogue (`roles.toml`), the guard of routes, and verified access tokens."""
