-- Not a statement: the measures of a row, each as a row (metric_type, metric_value).
cross join lateral (values
  ('requests', requests), ('failed_requests', failed_requests), ('prompt_tokens', prompt_tokens),
  ('completion_tokens', completion_tokens), ('cost', cost)
) as measure (metric_type, metric_value)
