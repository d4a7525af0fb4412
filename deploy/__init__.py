"""Starting the services: private servers for a laptop and the tests, containers for everything else."""
