"""Task families: each makes problems, words their prompts and names the answer; one strict grader for all."""
