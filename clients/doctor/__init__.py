"""What `fedssl-client doctor` looks at: the machine, and the way to the coordinator."""
