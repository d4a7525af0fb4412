"""The ledger's rules, pure: state of the books in, postings out. No I/O, no clock, no randomness but new ids."""
