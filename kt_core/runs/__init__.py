"""Around the core: recipes, training windows, checkpoints, resumable runs, faster computation."""
