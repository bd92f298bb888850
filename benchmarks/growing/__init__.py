"""What a store needs for its growth to be measured: to be filled in minutes, and to be asked."""
