/** A QR code: dark on light in every colour scheme, for cameras cannot read the opposite. */
import type {VNode} from 'preact';
import './qr-code.css';

interface QrCodeProperties {
  /** The rows of the code with the light modules around it; '1' is a dark module. */
  readonly rows: readonly string[];
  /** What the code leads to, for who cannot see it. */
  readonly label: string;
}

export function QrCode({rows, label}: QrCodeProperties): VNode {
  const size = rows.length;
  return (
    <svg class="qr-code" role="img" aria-label={label} viewBox={`0 0 ${size} ${size}`} shape-rendering="crispEdges">
      <path d={rows.map(drawRow).join('')} />
    </svg>
  );
}

/** Returns the path of the dark modules of a row, each run of them as one rectangle. */
export function drawRow(row: string, y: number): string {
  return [...row.matchAll(/1+/g)].map(({0: run, index}) => `M${index} ${y}h${run.length}v1h-${run.length}z`).join('');
}
