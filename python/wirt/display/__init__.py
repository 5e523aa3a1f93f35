"""What a person sees and types: screens for VNC viewers and browsers, and keyboard layouts."""
