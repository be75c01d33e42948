-- Removes rows of a user without usage.
-- $1 user   $2 first day   $3 day after the last
delete from usage_platform_users
where user_id = $1 and month >= $2::date and month < $3::date
  and requests = 0 and failed_requests = 0 and prompt_tokens = 0 and completion_tokens = 0 and cost = 0
