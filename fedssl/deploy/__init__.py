"""Keys, certificates and kits for a federation over several machines."""
