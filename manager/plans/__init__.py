"""What starts tasks by itself: jobs and workflows, and the clock."""
