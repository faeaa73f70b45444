"""What the proplet was given to do, and what it owes the manager: attempts, their journal, what is sent until it is acknowledged."""
