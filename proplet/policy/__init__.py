"""What the operator of this machine grants to tasks: the policy file, and what it says about one task."""
