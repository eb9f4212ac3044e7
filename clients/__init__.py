"""Flower side of a site: translates messages, no arithmetic."""
