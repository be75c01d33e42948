-- Returns whether a commit waits for the disk.
select current_setting('synchronous_commit') as setting
