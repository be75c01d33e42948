export const Brand = () => (
  <span className="brand">
    <svg width="24" height="24" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="8" fill="#4f46e5" />
      <g stroke="#fff" strokeWidth="2.6" strokeLinecap="round">
        <path d="M9 9v14M13.7 9v14M18.3 9v14M23 9v14" />
        <path d="M6 20 26 12" />
      </g>
    </svg>
    Tally
  </span>
);
