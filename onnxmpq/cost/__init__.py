"""Costs: what plans take, measured on whole models and fitted, and the rules by which formats and layouts change."""
