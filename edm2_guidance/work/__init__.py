"""Long work by many processes: shards, leases, status."""
