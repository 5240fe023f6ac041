/** The JSON of the API that cloud and desktop serve to the page. */

export interface User {
  readonly id: string;
  readonly name: string;
}

/** Who serves the page: GET /ctllm/page. */
export interface PageServer {
  readonly role: 'cloud' | 'desktop';
  readonly version: string;
}

/** The response of POST /ctllm/session and POST /ctllm/session/token; `expires_in` in seconds. */
export interface AccessToken {
  readonly user: User;
  readonly token: string;
  readonly expires_in: number;
}

export interface Provider {
  readonly name: string;
  readonly title: string;
  readonly issuer: string;
}

/** An element of GET /ctllm/desktops. */
export interface Desktop {
  readonly id: string;
  readonly name: string;
  readonly ollama: 'up' | 'down' | 'demo';
  readonly version: string;
  readonly models: readonly string[];
  /** Whether it runs generations and keeps conversations. */
  readonly resources?: boolean;
  readonly latency_ms?: number | null;
}

/** GET /ctllm/proxy. */
export interface ProxyStatus {
  readonly state: 'absent' | 'starting' | 'running' | 'stopping' | 'failed';
  readonly exchanges: number;
  readonly error?: string | null;
  readonly idle_seconds?: number | null;
  readonly memory_bytes?: number | null;
  /** Epoch seconds. */
  readonly started_at?: number | null;
  readonly spawner?: string | null;
}

/** An element of Ollama's GET /api/tags. */
export interface Model {
  readonly name: string;
  readonly size: number;
  /** RFC 3339. */
  readonly modified_at?: string;
  readonly remote_host?: string;
  readonly details?: {readonly parameter_size?: string; readonly quantization_level?: string; readonly family?: string};
}

/** An element of Ollama's GET /api/ps. */
export interface LoadedModel {
  readonly name: string;
  /** Bytes of memory, and how many of them are the graphics card's. */
  readonly size: number;
  readonly size_vram?: number;
  /** RFC 3339. */
  readonly expires_at: string;
  readonly context_length?: number;
}

/** An element of GET /ctllm/desktop/generations. */
export interface GenerationStatus {
  readonly id: string;
  readonly conversation: string;
  readonly message: string;
  readonly model: string;
  readonly state: 'running' | 'complete' | 'failed' | 'cancelled';
  readonly bytes: number;
  readonly started_at: number;
}
