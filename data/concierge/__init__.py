"""The city concierge: a written corpus and the recipe of the bundled model."""
