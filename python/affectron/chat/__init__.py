"""The page of ``affectron chat``: texts with and without steering, side by side, for a browser on this machine."""
