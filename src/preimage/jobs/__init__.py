"""What the commands do: from settings to a finished run folder. Nothing here prints."""
