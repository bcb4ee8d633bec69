"""What ranks say to each other. Pure: knows no MPI."""
