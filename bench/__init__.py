"""Speed as ratios: the product against a floor, interleaved in one run (`make bench`)."""
