// Runs before the first paint, so that a chosen theme never flashes.
try {
  const theme = localStorage.getItem('tally-theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {}

// uPlot makes a number format of the browser's language when it loads, and throws if that is no BCP 47 tag, as "en_US".
try {
  new Intl.NumberFormat(navigator.language);
} catch {
  Object.defineProperty(navigator, 'language', { value: 'en' });
}
