"""Pictures of runs: from run directories to one page, a picture or JSON."""
