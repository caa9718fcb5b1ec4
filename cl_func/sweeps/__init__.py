"""Seeds times hyperparameters of one strategy, here or on other machines, and the table that comes of them."""
