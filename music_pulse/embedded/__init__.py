"""The servers that run without Docker: started from wheels, state under the home folder."""
