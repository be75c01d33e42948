export function chartDigest(): string;
export function renderChart(helm?: string): string;
