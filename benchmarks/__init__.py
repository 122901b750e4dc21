"""One script per published figure; each prints its own baseline beside it."""
