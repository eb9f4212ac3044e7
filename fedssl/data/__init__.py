"""Every byte that is read from disk: readers, layouts, the prepared cache, batches."""
