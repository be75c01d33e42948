import { queryClient } from '../../api.ts';

export const refreshMeters = () => queryClient.invalidateQueries({ queryKey: [['meters']] });

/** Returns the display name of a meter's dimension. */
export const dimensionText = (dimension: string): string =>
  dimension === 'apiKey' ? 'API key' : dimension.replace(/^property:/, '');
