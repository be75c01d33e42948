export const CustomMetrics = () => null;
