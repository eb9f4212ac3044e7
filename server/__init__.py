"""Flower side of the coordinator: moves messages, no arithmetic."""
