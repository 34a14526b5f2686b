"""What is adapted: policies, their distributions and derivatives, and the file that holds one."""
