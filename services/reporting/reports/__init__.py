"""Reports: what each one asks (`my_payment_activity`, `payment_balancing`), how lines become figures (`query`), and how
an answer is read at one version of the books (`reader`)."""
