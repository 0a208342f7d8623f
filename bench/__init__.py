"""`make bench`: what a request costs here, as ratios taken in one run."""
