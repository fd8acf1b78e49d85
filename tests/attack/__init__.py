"""Kills, full disks, damaged files, leaks and foreign code, from outside: what others' files and machines may do."""
