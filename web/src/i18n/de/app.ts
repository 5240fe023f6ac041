export const app = {
  'app.tagline': 'Deine Modelle, überall',
  'app.newChat': 'Neuer Chat',
  'app.settings': 'Einstellungen',
  'app.logOut': 'Abmelden',
  'app.navigation': 'Gespräche und Einstellungen',
  'app.menu': 'Menü',
  'app.models': 'Modelle',
  'app.close': 'Schließen',
  'app.cancel': 'Abbrechen',
  'app.copy': 'Kopieren',
  'app.copied': 'Kopiert',
  'app.copyFailed': 'Nicht kopiert',
} as const;
