"""Starts that are owed: how they are paid, and the keeper, who sees to what no living rotation does."""
