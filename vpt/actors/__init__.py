"""What lives: one actor a host, the dispatcher between queue and hosts, campaigns as jobs."""
