import { queryClient } from '../../api.ts';

export const refreshMeters = () => queryClient.invalidateQueries({ queryKey: [['meters']] });

/** Returns a dimension of a meter as people call it. */
export const dimensionText = (dimension: string): string =>
  dimension === 'apiKey' ? 'API key' : dimension.replace(/^property:/, '');
