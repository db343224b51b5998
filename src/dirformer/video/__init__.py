"""Films: frame by frame through the network, with all around the frames kept."""
