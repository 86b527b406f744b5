"""What the tests share: virtual time, scripted and demo upstreams, the real command as a child."""
