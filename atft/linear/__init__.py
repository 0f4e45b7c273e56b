"""Linear learners on a filter bank of the features: fitted in closed form, from sums over days."""
