"""From a start to a result: runs and attempts, the queue, the choice of a proplet, offers and leases."""
