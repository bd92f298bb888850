"""One log and many viewers: where its lines come from, and who reads them."""
